"""One learner rank in a process of its own, started by test_ranks.py: trains and reports metrics and weights.

python tests/learner/rank_main.py <rank> <world size> <port> <input pickle> <output pickle>
"""

import pickle
import sys
from pathlib import Path

from learner.engine import Engine
from learner.worker import LearnerWorker
from orchestration.process import prepare


def partition_small_parameters_too() -> None:
    """ZeRO-3 leaves parameters below 1e5 elements whole, which are all of a test model's."""
    original = Engine._deepspeed_config

    def config(engine):
        settings = original(engine)
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return settings

    Engine._deepspeed_config = config


def main(rank: int, world_size: int, port: int, given: Path, answer: Path) -> None:
    prepare()
    partition_small_parameters_too()
    jobs = pickle.loads(given.read_bytes())
    answers = {}
    for name, (model_path, config, objective, batches, checkpoint) in jobs.items():
        arguments = (model_path, config, objective, rank, world_size, "127.0.0.1", port, 0, len(batches))
        worker = LearnerWorker(*arguments)
        metrics = [dict(worker.train(batch).metrics) for batch in batches[:-1]]
        worker.save(checkpoint)  # the last step is taken by a learner that knows only what was saved
        worker = LearnerWorker(*arguments)
        worker.load(checkpoint)
        metrics.append(dict(worker.train(batches[-1]).metrics))
        record, payload = worker.publish()
        answers[name] = (metrics, record, payload.tobytes())
    answer.write_bytes(pickle.dumps(answers))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
