"""What a task does for the tasks before it, where they share what it trains."""

from moleflow.continual.elastic import ElasticWeights
from moleflow.continual.replay import Replay
from moleflow.continual.strategy import Strategy

__all__ = ["ElasticWeights", "Replay", "Strategy"]
