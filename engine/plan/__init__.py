"""Plans: what a pipeline means (`logical`) and what the runtime executes (`physical`)."""
