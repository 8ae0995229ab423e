package envoypath_test

import (
	"fmt"

	"github.com/keywicket/keywicket/explain/envoypath"
)

func ExampleNormalize() {
	fmt.Println(envoypath.Normalize("/api//x/../us%65r?tab=a//b"))
	fmt.Println(envoypath.Normalize("/api/a%2Fb"))
	// Output:
	// /api/user?tab=a//b <nil>
	//  the path has an escaped slash (%2F) or an escaped backslash (%5C)
}
