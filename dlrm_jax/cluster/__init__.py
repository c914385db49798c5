"""Jobs of several processes: joining, agreeing, watching, signals."""
