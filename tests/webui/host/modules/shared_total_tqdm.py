"""The console's progress bar over all jobs."""


class TotalTQDM:
    def __init__(self):
        self._total = 0
        self._done = 0

    def reset(self):
        self._total = self._done = 0

    def update(self):
        self._done += 1

    def updateTotal(self, new_total):
        self._total = new_total

    def clear(self):
        self.reset()
