# Written for OPA before 1.0: no `if`, no `contains`.
package authz

default allow = false

allow {
	input.method == "GET"
	input.user == data.owners[_]
}

violation[{"msg": msg}] {
	not allow
	msg := sprintf("%v may not %v", [input.user, input.method])
}
