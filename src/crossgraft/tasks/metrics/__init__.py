"""Official metrics: VQA accuracy, exact match, and those of captions."""
