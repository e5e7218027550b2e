#error "the CPU driver does not have cooperative groups (cooperative_groups.h)"
