"""What people write: inventories, jobs, MindFormers' run YAML."""
