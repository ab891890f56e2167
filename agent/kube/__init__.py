"""The API server: requests, watches, leases."""
