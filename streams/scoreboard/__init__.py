"""The scoreboard: what the stages' events add up to by window, category and tier, and the page that shows it."""
