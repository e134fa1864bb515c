"""A worker's application, for Celery: its task asks with clients that worked before any fork."""

from __future__ import annotations

import os

from celery import Celery  # type: ignore[import-untyped]

from tests.forked_client import tenant

app = Celery("forked", broker=os.environ["CELERY_BROKER"], backend=os.environ["CELERY_BROKER"])
app.task(name="tenant")(tenant)
