"""Kafka, as the apps see it: one import for the producer, consumers, topics and the watch over skipped records."""

from shared.broker import client_options, leave, max_record_bytes, new_consumer
from shared.producer import Producer
from shared.provisioning import ensure_topics
from shared.skip_watch import SkipWatch

__all__ = ["Producer", "SkipWatch", "client_options", "ensure_topics", "leave", "max_record_bytes", "new_consumer"]
