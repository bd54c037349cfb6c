"""What will be built, as values: who stays, how wide, what each new position comes from; nothing is built."""
