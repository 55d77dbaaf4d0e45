"""What runs, how far it is, and whether the user wants it to end."""

from __future__ import annotations

import time


class State:
    skipped = False
    interrupted = False
    stopping_generation = False
    job = ""
    job_no = 0
    job_count = 0
    processing_has_refined_job_count = False
    job_timestamp = "0"
    sampling_step = 0
    sampling_steps = 0
    current_latent = None
    textinfo = None
    time_start = None
    current_image_sampling_step = 0

    def skip(self):
        self.skipped = True

    def interrupt(self):
        self.interrupted = True

    def stop_generating(self):
        self.stopping_generation = True

    def nextjob(self):
        self.job_no += 1
        self.sampling_step = 0

    def begin(self, job: str = "(unknown)"):
        self.job = job
        self.job_no = self.sampling_step = 0
        self.job_count = -1
        self.processing_has_refined_job_count = False
        self.skipped = self.interrupted = self.stopping_generation = False
        self.current_latent = self.textinfo = None
        self.time_start = time.time()

    def end(self):
        self.job = ""
        self.job_count = 0
