"""The cheap tier: prompts, the engine protocol, and its engines."""
