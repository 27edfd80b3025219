"""The async scheduler and run loop that connect rollout, reward and learner; tasks, evaluation, monitoring, commands."""
