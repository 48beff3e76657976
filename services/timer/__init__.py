"""The timer role: sees to it that a dispute nobody answered is auto-accepted soon after its deadline."""
