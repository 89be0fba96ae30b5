package merkle

// Roots over blocks of zeros, computed by a separate program from SHA-256 alone.
const (
	knownRoot1 = "4fe7b59af6de3b665b67788cc2f99892ab827efae3a467342b3bb4e3bc8e5bfe"
	knownRoot2 = "c36d0dd6a886e1fce758b6b5c531b703a1f21e8f6453785c390931cf8fa8a76d"
	knownRoot3 = "1cb5a249f6e721060aae623d21d3eca23056bda8c19e4e89f9a086151553713d"
)
