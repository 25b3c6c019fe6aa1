# What an agent may deploy, in the style of Conftest: each rule says what is wrong.
package deploys

import rego.v1

deny contains "deployments need a ticket" if {
	not ticket
}

deny contains msg if {
	not startswith(input.tool_call.params.image, "registry.example.com/")
	msg := sprintf("image %v is not from our registry", [input.tool_call.params.image])
}

deny contains msg if {
	[hour, _, _] := time.clock([time.now_ns(), "Europe/Berlin"])
	hour >= 16
	msg := sprintf("it is %d o'clock in Berlin: no deployments after 16", [hour])
}

deny contains "only the office deploys to production" if {
	input.tool_call.params.stage == "production"
	not net.cidr_contains("10.1.0.0/16", input.params.source_ip)
}

ticket if {
	some entry in input.evidence
	regex.match(`^ticket:\d+$`, entry)
}
