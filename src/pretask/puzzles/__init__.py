"""Pretexts posed as questions with a verifier, for reinforcement learning of vision-language models."""
