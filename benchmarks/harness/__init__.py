"""What every table shares: interleaved timing, bandwidth, environment, child processes, reports, plots."""
