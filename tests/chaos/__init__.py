"""`make chaos`: the real thing under kills, freezes and restarts drawn by a seed, and a verifier of what it did.

`schedule` draws the rounds, `traffic` the tickets, `world` holds what is killed,
`witness` sees what comes out, `verifier` says what is wrong with it.
"""
