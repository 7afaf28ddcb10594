"""Rate limit per SIM of answers that the platform generates.

What the platform answers by itself, without a message going into the stream: names, pings, metadata, errors,
closed ports, MQTT's pings and subscriptions, new connections. Messages are not counted: they
are bounded where they wait for the stream.
"""

ANSWERS_PER_S = 50.0
"""Sustained. A device asks for some names at its start, pings once a minute and reads its metadata now and
then: even fifty devices behind one SIM stay below; at some 0.1 ms each it is 0.5 % of a processor."""
ANSWERS_BURST = 100
"""At once, after a time of silence."""
SWEEP_MIN = 1_024


class AnswerBudget:
    """A token bucket for each SIM, kept as the time at which it will be full again (GCRA, ITU-T I.371).

    A full bucket is the same as none, so what is kept is those that were taken from in the last
    ``burst / per_s`` seconds, and as many again until they are swept out.
    """

    def __init__(self, *, per_s: float = ANSWERS_PER_S, burst: int = ANSWERS_BURST) -> None:
        self._answer_s = 1 / per_s
        self._burst_s = burst / per_s
        self._full_at: dict[str, float] = {}
        self._sweep_at = SWEEP_MIN

    def __len__(self) -> int:
        """SIMs that are kept."""
        return len(self._full_at)

    def take(self, imsi: str, now: float) -> bool:
        """Whether one more answer is within the SIM's budget; if so it is taken from it."""
        full_at = max(self._full_at.get(imsi, now), now) + self._answer_s
        if full_at - now > self._burst_s + 1e-6:
            return False
        self._full_at[imsi] = full_at
        if len(self._full_at) >= self._sweep_at:
            self._full_at = {imsi: at for imsi, at in self._full_at.items() if at > now}
            self._sweep_at = max(SWEEP_MIN, 2 * len(self._full_at))
        return True
