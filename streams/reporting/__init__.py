"""What a run came to: running totals, the live view, the report on screen and as a page."""
