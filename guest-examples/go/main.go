// The component: the exports of world gavel:policy/policy and nothing else. The rule is in rule/rule.go.
package main

import _ "guarded_tools/bindings/wit_exports"

func main() {}
