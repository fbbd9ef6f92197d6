"""What one prefill and one decode instance of the running stack cost: `make profile`, which writes profile.json."""
