// Package export_wit_world is the glue between Gavel and the rule: it holds what every policy in Go needs. The generated
// bindings call it by this name. The rule is in rule/rule.go.
package export_wit_world

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	log "guarded_tools/bindings/gavel_policy_log"
	"guarded_tools/bindings/wit_world"
	"guarded_tools/rule"
)

func Evaluate(request wit_world.Request) wit_world.Verdict {
	defer report()
	return rule.Evaluate(request)
}

func Describe() wit_world.Metadata {
	defer report()
	return rule.Describe()
}

// A panic ends the policy, which denies the request. Its message and stack reach the log before that.
func report() {
	if problem := recover(); problem != nil {
		log.Write(log.LevelError, fmt.Sprintf("panic: %v\n%s", problem, stack()))
		os.Exit(2) // a trap; panicking again would say everything twice
	}
}

// The functions of the rule that were being called, the innermost first.
func stack() string {
	callers := make([]uintptr, 32)
	frames := runtime.CallersFrames(callers[:runtime.Callers(3, callers)])
	var text strings.Builder
	for {
		frame, more := frames.Next()
		if frame.Function == "guarded_tools/bindings/export_wit_world.Evaluate" || !more {
			return text.String()
		}
		if !strings.HasPrefix(frame.Function, "runtime.") {
			fmt.Fprintf(&text, "  %s (%s:%d)\n", frame.Function, frame.File, frame.Line)
		}
	}
}
