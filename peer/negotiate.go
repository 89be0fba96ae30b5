package peer

import "github.com/parley-bt/parley/wire"

// ChooseDialect is the one place that chooses the dialect, once both classic hellos are known (EMP/1 section 1). It is symmetric, so that both
// sides reach the same answer.
func ChooseDialect(ours, theirs wire.Reserved) wire.Dialect {
	azmp, ltep := ours.AZMP() && theirs.AZMP(), ours.LTEP() && theirs.LTEP()
	switch {
	case azmp && ltep:
		if preferAZMP(ours[5]&3, theirs[5]&3) {
			return wire.DialectAZMP
		}
		return wire.DialectLTEP
	case ltep:
		return wire.DialectLTEP
	case azmp:
		return wire.DialectAZMP
	}
	return wire.DialectClassic
}

// preferAZMP is the extension negotiation table (reference azmp, section 2.1) over two values of 0 force LTEP, 1 prefer LTEP,
// 2 prefer AZMP, 3 force AZMP: a force beats a preference; where neither or both win, LTEP is spoken.
func preferAZMP(a, b byte) bool {
	lo, hi := min(a, b), max(a, b)
	return hi == 3 && lo >= 1 || lo == 2 && hi == 2
}
