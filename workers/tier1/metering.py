"""What a ticket costs on an engine that is paid by the hour."""


class BusyMeter:
    """Shares the engine's busy time among the requests in flight.

    While n requests run, each second of the engine costs each of them 1/n
    second; so the shares of all requests add up to the time that the engine was
    busy, and its price per hour becomes a cost per ticket.
    """

    def __init__(self) -> None:
        self._in_flight = 0
        self._share_s = 0.0
        self._at = 0.0

    def start(self, now: float) -> float:
        """A request begins; returns the mark to give to `stop`. `now` in seconds, never falling."""
        self._advance(now)
        self._in_flight += 1
        return self._share_s

    def stop(self, mark: float, now: float) -> float:
        """A request ends; returns its share of the engine's busy time, seconds."""
        self._advance(now)
        self._in_flight -= 1
        return self._share_s - mark

    def _advance(self, now: float) -> None:
        if self._in_flight:
            self._share_s += (now - self._at) / self._in_flight
        self._at = now
