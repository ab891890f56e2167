"""The dummy model server and the local run."""
