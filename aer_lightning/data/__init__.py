"""Generation as data: prompts, engines, verifiers, rollouts."""
