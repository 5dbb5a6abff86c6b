"""Policies: any vision-language model of ``transformers``, its prompts, packed training rows, and generation."""
