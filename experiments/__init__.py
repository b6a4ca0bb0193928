"""Scripts: log, train, replay, sweep, plot. Settings are Python literals, results small JSON."""
