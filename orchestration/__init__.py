"""The async scheduler and run loop between rollout, reward and learner; tasks, evaluation, monitoring, commands."""
