package e2e_test

// The exchanges of TestSupervisorRequests: those of supervisor 19.0.5, of the shell scripts of balenaOS, and of older ones.

var beforeRegistration = []exchange{
	{name: "is the server there", line: "GET /ping", key: "nobody", status: 200},
	{name: "is there an internet", line: "GET /connectivity-check", key: "nobody", status: 204, want: `^$`},
	{name: "what time is it", line: "HEAD /connectivity-check", key: "nobody", status: 204},
	{name: "a log stream, too early", line: "POST /device/v2/UUID/log-stream", kind: "application/x-ndjson", gzip: true, status: 401},
	{name: "a poll, too early", line: "GET /device/v3/UUID/state", status: 401},
	{name: "configuration of the OS, without a key", line: "GET /os/v1/config", key: "nobody", status: 200,
		want: `"schema_version":"1\.0\.0".*"openvpn":\{"ca":"`},
}

var registration = []exchange{
	{name: "no uuid", line: "POST /device/register", key: "provisioning", status: 400, want: `(?i)uuid`,
		body: `{"application":FLEET,"device_type":"generic-amd64"}`},
	{name: "a bad uuid", line: "POST /device/register", key: "provisioning", status: 400, want: `32 or 62`,
		body: `{"application":FLEET,"device_type":"generic-amd64","uuid":"ABC"}`},
	{name: "without a key", line: "POST /device/register", key: "nobody", status: 401,
		body: `{"application":FLEET,"device_type":"generic-amd64","uuid":"UUID"}`},
	{name: "register", line: "POST /device/register", key: "provisioning", status: 201, want: `"uuid":"UUID","api_key":"KEY"`,
		body: `{"application":FLEET,"uuid":"UUID","device_type":"generic-amd64","api_key":"KEY","supervisor_version":"19.0.5",` +
			`"os_version":"balenaOS 6.6.0+rev1","os_variant":"prod","mac_address":"00:11:22:33:44:55","user":"1","unknown":true}`},
	{name: "register once more, as the script of the OS does", line: "POST /device/register", key: "provisioning", kind: form, status: 201,
		body: `application=FLEET&uuid=UUID&device_type=generic-amd64&api_key=KEY&supervisor_version=19.0.5`},
	{name: "register as somebody who has the uuid", line: "POST /device/register", key: "provisioning", status: 409, want: `"uuid\\?" must be unique`,
		body: `{"application":FLEET,"uuid":"UUID","device_type":"generic-amd64","api_key":"OTHER"}`},
	{name: "is it me", line: "GET /v7/device?$select=id&$filter=uuid eq 'UUID'", status: 200, want: `^\{"d":\[\{"id":DEVICE\}\]\}`},
	{name: "a provisioning key sees no device", line: "GET /v7/device?$select=id&$filter=uuid eq 'UUID'", key: "provisioning", status: 401},
	{name: "exchange of the key, with a key that may not", line: "POST /api-key/device/DEVICE/device-key", key: "provisioning", status: 401,
		body: `{"apiKey":"KEY"}`},
	{name: "exchange of the key, as a user", line: "POST /api-key/device/DEVICE/device-key", key: "user", status: 200, want: `^"KEY"`,
		body: `{"apiKey":"KEY"}`},
}

var firstBoot = []exchange{
	{name: "the target", line: "GET /device/v3/UUID/state", status: 200,
		want: `"config":\{.*"RESIN_SUPERVISOR_POLL_INTERVAL":"\d+".*"FLEETUUID":\{"id":FLEET.*"COMMIT":\{"id":RELEASE.*"main".*LOCATION@HASH`},
	{name: "a variable of its configuration", line: "POST /v7/device_config_variable", status: 201,
		body: `{"value":"false","device":DEVICE,"name":"RESIN_SUPERVISOR_LOCAL_MODE"}`},
	{name: "an empty one", line: "POST /v7/device_config_variable", status: 201,
		body: `{"value":"","device":DEVICE,"name":"RESIN_HOST_FIREWALL_MODE"}`},
	{name: "an empty one of the user's", line: "POST /v7/device_config_variable", key: "user", status: 201,
		body: `{"value":"","device":DEVICE,"name":"RESIN_SUPERVISOR_LOCAL_MODE"}`},
	{name: "another device's", line: "POST /v7/device_config_variable", status: 401,
		body: `{"value":"1","device":99999999,"name":"RESIN_HOST_FIREWALL_MODE"}`},
	{name: "its first name", line: "PATCH /v7/device(DEVICE)", status: 200, want: `^$`, body: `{"device_name":"initial"}`},
	{name: "the release that it was preloaded with", status: 200, want: `"id":RELEASE`,
		line: "GET /v7/release?$select=id&$filter=belongs_to__application eq FLEET and commit eq 'COMMIT' and status eq 'success'"},
	{name: "the pin of a preloaded image", line: "PATCH /v7/device(DEVICE)", status: 200, body: `{"is_pinned_on__release":RELEASE}`},
	{name: "its tags", line: "GET /v7/device_tag?$select=id,tag_key,value&$filter=device eq DEVICE", status: 200, want: `^\{"d":\[`},
	{name: "its fleet", line: "GET /v7/application(FLEET)?$select=uuid", status: 200, want: `"uuid":"FLEETUUID"`},
	{name: "a token for its image", line: "GET /auth/v1/token?service=registry2.DOMAIN&scope=repository:REPOSITORY:pull", key: "basic", status: 200,
		want: `"token":"ey`},
}

var reports = []exchange{
	{name: "the first", line: "PATCH /device/v3/state", status: 200, want: `^(OK)?$`,
		body: `{"UUID":{"api_port":48484,"api_secret":"0123456789abcdef0123456789abcdef","ip_address":"192.0.2.10 2001:db8::10","os_version":` +
			`"balenaOS 6.6.0+rev1","os_variant":"prod","mac_address":"00:11:22:33:44:55","supervisor_version":"19.0.5","provisioning_progress":null,` +
			`"provisioning_state":"","status":"Idle","logs_channel":null,"update_failed":false,"update_pending":false,"update_downloaded":false}}`},
	{name: "downloading", line: "PATCH /device/v3/state", status: 200,
		body: `{"UUID":{"apps":{"FLEETUUID":{"releases":{"COMMIT":{"update_status":"downloading","services":{"main":{"image":"LOCATION@HASH",` +
			`"status":"Downloading","download_progress":0}}}}}}}}`},
	{name: "running", line: "PATCH /device/v3/state", status: 200,
		body: `{"UUID":{"apps":{"FLEETUUID":{"release_uuid":"COMMIT","releases":{"COMMIT":{"update_status":"done","services":{"main":{"image":` +
			`"LOCATION@HASH","status":"Running"}}}}}}}}`},
	{name: "metrics alone", line: "PATCH /device/v3/state", status: 200,
		body: `{"UUID":{"memory_usage":1234,"memory_total":7821,"storage_usage":512,"storage_total":28000,"storage_block_device":"/dev/mmcblk0p6",` +
			`"cpu_usage":7,"cpu_temp":48,"cpu_id":"10000000deadbeef","is_undervolted":false}}`},
	{name: "metrics switched off", line: "PATCH /device/v3/state", status: 200,
		body: `{"UUID":{"memory_usage":null,"storage_usage":null,"cpu_usage":null,"cpu_temp":null}}`},
	{name: "fields of the future", line: "PATCH /device/v3/state", status: 200, body: `{"UUID":{"status":"Idle","quantum_state":{"a":[1,2]}}}`},
	{name: "in local mode, without apps", line: "PATCH /device/v3/state", status: 200, body: `{"UUID":{"status":"Idle","is_online":true}}`},
	{name: "texts that are too long", line: "PATCH /device/v3/state", status: 200,
		body: `{"UUID":{"status":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}`},
	{name: "an unknown status of a service", line: "PATCH /device/v3/state", status: 200,
		body: `{"UUID":{"status":"Idle","apps":{"FLEETUUID":{"release_uuid":"COMMIT","releases":{"COMMIT":{"update_status":"done","services":{"main":` +
			`{"image":"LOCATION@HASH","status":"Running"}}}}}}}}`},
	{name: "somebody else's state", line: "PATCH /device/v3/state", status: 401, body: `{"OTHER":{"status":"Idle"}}`},
	{name: "a release of nobody's", line: "PATCH /device/v3/state", status: 401,
		body: `{"UUID":{"apps":{"FLEETUUID":{"releases":{"OTHER":{"update_status":"done","services":{}}}}}}}`},
	{name: "an image of nobody's", line: "PATCH /device/v3/state", status: 401,
		body: `{"UUID":{"apps":{"FLEETUUID":{"releases":{"COMMIT":{"update_status":"done","services":{"main":{"image":"registry2.DOMAIN/v2/OTHER",` +
			`"status":"Running"}}}}}}}}`},
	{name: "nothing", line: "PATCH /device/v3/state", status: 400, body: `{}`},
	{name: "no JSON", line: "PATCH /device/v3/state", status: 400, body: `{"UUID":`},
	{name: "tags", line: "PATCH /device/v3/tags", status: 200, body: `{"UUID":{"place":"roof"}}`},
}

var oldSupervisors = []exchange{
	{name: "the target of version 2", line: "GET /device/v2/UUID/state", status: 200,
		want: `"local":\{.*"apps":\{"FLEET":\{.*"commit":"COMMIT".*"releaseId":RELEASE.*"serviceName":"main".*"dependent":\{"apps":\{\},"devices":\{\}\}`},
	{name: "a report of version 2", line: "PATCH /device/v2/UUID/state", status: 200,
		body: `{"local":{"status":"Idle","os_version":"balenaOS 6.6.0+rev1","os_variant":"prod","supervisor_version":"19.0.5","is_on__commit":"COMMIT"}}`},
	{name: "a report of version 2 for another", line: "PATCH /device/v2/OTHER/state", status: 401, body: `{"local":{"status":"Idle"}}`},
	{name: "the fleet's target", line: "GET /device/v3/fleet/FLEETUUID/state", key: "user", status: 200, want: `"COMMIT"`},
	{name: "the fleet's target of a release", line: "GET /device/v3/fleet/FLEETUUID/state/?releaseUuid=COMMIT", key: "user", status: 200, want: `"COMMIT"`},
	{name: "no fleet's target", line: "GET /device/v3/fleet/OTHER/state", key: "user", status: 401},
}

var deviceLogs = []exchange{
	{name: "a stream", line: "POST /device/v2/UUID/log-stream", kind: "application/x-ndjson", gzip: true, status: 201,
		body: `{"message":"Supervisor starting","timestamp":1795300000000,"isSystem":true}` + "\n" + `{"message":"broken` + "\n"},
	{name: "an empty stream", line: "POST /device/v2/UUID/log-stream", kind: "application/x-ndjson", gzip: true, status: 201},
	{name: "a stream of something else", line: "POST /device/v2/UUID/log-stream", kind: "text/plain", status: 415, body: "hello\n"},
	{name: "another device's stream", line: "POST /device/v2/OTHER/log-stream", kind: "application/x-ndjson", gzip: true, status: 404},
	{name: "a batch", line: "POST /device/v2/UUID/logs", status: 201, body: `[{"message":"a line","timestamp":1795300000001,"isSystem":true,"isStdErr":true}]`},
	{name: "a batch that is too large", line: "POST /device/v2/UUID/logs", status: 400,
		body: `[{"message":"1"},{"message":"2"},{"message":"3"},{"message":"4"},{"message":"5"},{"message":"6"},{"message":"7"},{"message":"8"},` +
			`{"message":"9"},{"message":"10"},{"message":"11"}]`},
	{name: "what people read", line: "GET /device/v2/UUID/logs", key: "user", status: 200, want: `Supervisor starting.*a line`},
}

var operatingSystem = []exchange{
	{name: "configuration", line: "GET /os/v1/config", status: 200,
		want: `"schema_version":"1\.0\.0".*"openvpn":\{"ca":".*"config":"`},
	{name: "keys of a user who may enter", line: "GET /auth/v1/public-keys/USERNAME", status: 200},
	{name: "keys, without saying who asks", line: "GET /auth/v1/public-keys/USERNAME", key: "nobody", status: 401},
	{name: "keys of nobody", line: "GET /auth/v1/public-keys/nobody-at-all", status: 200, want: `^$`},
	{name: "progress of an update", line: "PATCH /v6/device(uuid='UUID')", kind: form, status: 200, want: `^(OK)?$`,
		body: `provisioning_progress=25&provisioning_state=Preparing OS update&status=configuring`},
	{name: "progress of another's", line: "PATCH /v6/device(uuid='OTHER')", kind: form, status: 200, body: `provisioning_progress=25`},
	{name: "which supervisor", status: 200, want: `^\{"d":\[\]\}`,
		line: "GET /v6/supervisor_release?$select=supervisor_version,image_name&$filter=should_manage__device/any(d:d/uuid eq 'UUID')"},
	{name: "which supervisor, in version 5", status: 200, want: `^\{"d":\[`, line: "GET /v5/supervisor_release?$select=image_name&$top=1"},
	{name: "its type", line: "GET /v6/device?$select=id&$expand=is_of__device_type($select=slug)&$filter=uuid eq 'UUID'", status: 200,
		want: `"slug":"generic-amd64"`},
	{name: "its variables, in version 5", line: "GET /v5/device_config_variable?$select=name,value&$filter=device eq DEVICE", status: 200,
		want: `RESIN_SUPERVISOR_LOCAL_MODE`},
	{name: "releases of its OS, in version 6", status: 200, want: `^\{"d":\[\]\}`,
		line: "GET /v6/release?$select=id,commit&$filter=belongs_to__application/any(a:a/is_host eq true and a/is_for__device_type/" +
			"any(dt:dt/slug eq 'raspberrypi4-64')) and is_invalidated eq false"},
	{name: "releases of its OS, in version 7", status: 200, want: `^\{"d":\[\]\}`,
		line: "GET /v7/release?$select=id,commit,raw_version&$filter=belongs_to__application/any(a:a/is_host eq true and a/is_for__device_type/" +
			"any(dt:dt/slug eq 'raspberrypi4-64')) and is_invalidated eq false"},
}

// afterDeletion: a device is never told to stop; it finds that nobody knows it any more.
var afterDeletion = []exchange{
	{name: "report", line: "PATCH /device/v3/state", status: 401, body: `{"UUID":{"status":"Idle"}}`},
	{name: "log stream", line: "POST /device/v2/UUID/log-stream", kind: "application/x-ndjson", gzip: true, status: 401},
	{name: "is it me", line: "GET /v7/device?$select=id&$filter=uuid eq 'UUID'", status: 401},
	{name: "a token", line: "GET /auth/v1/token?service=registry2.DOMAIN&scope=repository:REPOSITORY:pull", key: "basic", status: 401},
}
