package gate

import (
	"testing"

	"github.com/parley-bt/parley/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
