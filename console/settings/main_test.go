package settings_test

import (
	"testing"

	"github.com/keywicket/keywicket/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }
