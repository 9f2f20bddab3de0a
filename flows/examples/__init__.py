"""What a user's own edit of the gateway's flow looks like."""
