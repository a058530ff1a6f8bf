"""What the guest has written to its console: the first mebibyte and the last one."""

BUFFER_SIZE = 1024 * 1024
DEFAULT_MAX_BYTES = 16 * 1024


class Expired(Exception):
    """Asks for bytes between the two parts that are kept."""


class History:
    def __init__(self, size: int = BUFFER_SIZE) -> None:
        self.size = size
        self.total = 0
        self._beginning = bytearray()
        self._rolling = bytearray()

    def consume(self, data: bytes) -> None:
        self._rolling += data
        self.total += len(data)
        excess = len(self._rolling) - self.size
        if excess > 0:
            self._beginning += self._rolling[: min(excess, self.size - len(self._beginning))]
            del self._rolling[:excess]

    def read(self, from_start: int | None, most_recent: int | None, max_bytes: int | None = None) -> tuple[bytes, int]:
        """Bytes from one of the two offsets on, and the offset behind the last of them. Raises Expired."""
        if from_start is not None:
            start = min(from_start, self.total)
        else:
            assert most_recent is not None
            start = max(self.total - most_recent, 0)
        limit = DEFAULT_MAX_BYTES if max_bytes is None else max_bytes
        data = self._slice(start, limit)
        return data, start + len(data)

    def _slice(self, start: int, limit: int) -> bytes:
        rolling_start = self.total - len(self._rolling)
        if start < len(self._beginning):
            found = bytes(self._beginning[start : start + limit])
            if rolling_start == len(self._beginning):  # nothing is lost between the two
                found += self._rolling[: limit - len(found)]
            return found
        if start >= rolling_start:
            return bytes(self._rolling[start - rolling_start : start - rolling_start + limit])
        raise Expired(
            f"Requested byte offset {start} (-{self.total - start}) is no longer cached: Only have first "
            f"{len(self._beginning)} + most recent {len(self._rolling)} saved out of a total {self.total} of output"
        )
