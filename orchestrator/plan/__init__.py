"""From job and inventory to the plan of a launch."""
