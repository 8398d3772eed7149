"""What is fitted on held-out or training cases without torch: activation ranges, decision rules, reliability."""
