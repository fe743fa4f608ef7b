"""What `fastsmtp serve --admin` shows: metrics, the state of the service, over HTTP."""
