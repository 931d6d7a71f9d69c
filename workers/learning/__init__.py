"""From tickets and labels to models: the company's data, rubrics, training, thresholds."""
