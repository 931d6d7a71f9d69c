"""Tier-2: a frontier model behind a provider's API, its prices and spend limit, and a server of recorded answers."""
