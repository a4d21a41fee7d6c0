package reference

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/internal/odata"
)

// Route is an endpoint beside the resources.
type Route struct {
	Method, Path, About string
	Public              bool // needs no token
}

type object = map[string]any

// OpenAPI makes an OpenAPI 3.1 document of the resources below a prefix and of routes.
func OpenAPI(m odata.Model, w Words, prefix, about string, routes []Route) ([]byte, error) {
	if err := w.Check(m); err != nil {
		return nil, err
	}
	paths, schemas := object{}, object{
		"Error": object{"type": "string", "description": "what is wrong, in words"},
		"Link":  object{"type": "object", "properties": object{"__id": object{"type": "integer"}}, "required": []string{"__id"}},
		"File": object{"type": "object", "properties": object{
			"filename": text(), "href": object{"type": "string", "format": "uri", "description": "where to fetch it for a while, without a token"},
			"content_type": text(), "content_disposition": text(), "size": object{"type": "integer"}, "checksum": text(),
		}},
	}
	for _, r := range m.Resources {
		schemas[r.Name] = schemaOf(r, w)
		paths[prefix+r.Name] = listPath(r, w)
		paths[prefix+r.Name+"({id})"] = rowPath(r)
		paths[prefix+r.Name+"/$count"] = object{"get": operation(r, "count", "How many "+r.Name+" rows there are", options("filter"), object{
			"type": "object", "properties": object{"d": object{"type": "integer"}}})}
	}
	for _, rt := range routes {
		addRoute(paths, rt)
	}
	doc := object{
		"openapi": "3.1.0",
		"info":    object{"title": "Roadstead", "version": "7", "description": about},
		"paths":   paths,
		"components": object{
			"schemas": schemas, "parameters": parameters, "responses": responses,
			"securitySchemes": object{
				"token":  object{"type": "http", "scheme": "bearer", "description": "a session token or an API key"},
				"apikey": object{"type": "apiKey", "in": "query", "name": "apikey"},
			},
		},
		"security": []any{object{"token": []string{}}, object{"apikey": []string{}}},
	}
	data, err := json.MarshalIndent(doc, "", " ")
	return append(data, '\n'), err
}

func text() object { return object{"type": "string"} }

func ref(name string) object { return object{"$ref": "#/components/schemas/" + name} }

// schemaOf is a row in its default form.
func schemaOf(r *odata.Resource, w Words) object {
	properties := object{}
	var required []string
	for _, c := range r.Columns {
		if c.Hidden {
			continue
		}
		p := columnSchema(c)
		if u := w.Units[r.Name+"."+c.Name]; u != "" {
			p["description"] = u
		}
		if writers(r, c.Name) == "" {
			p["readOnly"] = true
		}
		properties[c.Name] = p
		if !c.Explicit {
			required = append(required, c.Name)
		}
	}
	return object{"type": "object", "description": w.About[r.Name], "properties": properties, "required": required}
}

func columnSchema(c odata.Column) object {
	var p object
	switch c.Type {
	case odata.Integer:
		p = object{"type": "integer"}
	case odata.BigInteger:
		p = object{"type": "string", "pattern": "^-?[0-9]+$"}
	case odata.Real:
		p = object{"type": "number"}
	case odata.Boolean:
		p = object{"type": "boolean"}
	case odata.Date:
		p = object{"type": "string", "format": "date-time"}
	case odata.JSON:
		p = object{"type": []string{"object", "array"}}
	case odata.ForeignKey:
		p = object{"anyOf": []any{ref("Link"), object{"type": "array", "items": ref(c.To), "maxItems": 1}}}
	case odata.WebResource:
		p = object{"anyOf": []any{ref("File")}}
	default:
		p = text()
		if c.MaxLen > 0 {
			p["maxLength"] = c.MaxLen
		}
	}
	if !c.Null {
		return p
	}
	null := object{"type": "null"}
	switch t := p["type"].(type) {
	case string:
		p["type"] = []string{t, "null"}
	case []string:
		p["type"] = append(t, "null")
	default:
		p["anyOf"] = append(p["anyOf"].([]any), null) //nolint:forcetypeassert // made above
	}
	return p
}

// parameters are the options of queries.
var parameters = object{
	"filter":  parameter("$filter", "which rows", text()),
	"select":  parameter("$select", "which columns, separated by commas", text()),
	"expand":  parameter("$expand", "which links to follow", text()),
	"orderby": parameter("$orderby", "in which order; descending unless asc is said", text()),
	"top":     parameter("$top", "how many rows at most", object{"type": "integer", "minimum": 0}),
	"skip":    parameter("$skip", "how many rows to leave out", object{"type": "integer", "minimum": 0}),
}

func parameter(name, about string, schema object) object {
	return object{"name": name, "in": "query", "description": about, "schema": schema}
}

func options(names ...string) []any {
	var list []any
	for _, n := range names {
		list = append(list, object{"$ref": "#/components/parameters/" + n})
	}
	return list
}

// responses are the refusals that every operation has.
var responses = object{
	"400": refusal("the request is wrong"), "403": refusal("the caller may not do this"),
	"401": object{"description": "no valid token, or nothing that the caller may see"},
	"409": refusal("there is one like this already, or others refer to it"),
}

func refusal(about string) object {
	return object{"description": about, "content": object{"application/json": object{"schema": ref("Error")}}}
}

func operation(r *odata.Resource, verb, summary string, parameters []any, answer object) object {
	op := object{"operationId": verb + "_" + r.Name, "summary": summary, "tags": []string{r.Name}, "responses": answers(answer)}
	if len(parameters) > 0 {
		op["parameters"] = parameters
	}
	return op
}

// answers are those of an operation.
func answers(ok object) object {
	success := object{"description": "done"}
	if ok != nil {
		success["content"] = object{"application/json": object{"schema": ok}}
	}
	all := object{"200": success}
	for status := range responses {
		all[status] = object{"$ref": "#/components/responses/" + status}
	}
	return all
}

func rowsOf(r *odata.Resource) object {
	return object{"type": "object", "properties": object{"d": object{"type": "array", "items": ref(r.Name)}}, "required": []string{"d"}}
}

func body(r *odata.Resource) object {
	return object{"content": object{"application/json": object{"schema": ref(r.Name)}}}
}

// may reports whether anybody from outside may do something.
func may(r *odata.Resource, rule func(odata.Rule) string) bool {
	for _, ru := range r.Rules {
		if rule(ru) != "" {
			return true
		}
	}
	return false
}

func listPath(r *odata.Resource, w Words) object {
	get := operation(r, "list", w.About[r.Name], options("filter", "select", "expand", "orderby", "top", "skip"), rowsOf(r))
	if e := w.Examples[r.Name]; json.Valid(e.Answer) {
		get["x-example-request"] = e.Request
		content := get["responses"].(object)["200"].(object)["content"].(object)["application/json"].(object) //nolint:forcetypeassert // made above
		content["example"] = e.Answer
	}
	path := object{"get": get}
	if may(r, func(ru odata.Rule) string { return ru.Create }) {
		post := operation(r, "create", "Make one", nil, ref(r.Name))
		responses := post["responses"].(object) //nolint:forcetypeassert // made above
		responses["201"] = responses["200"]
		delete(responses, "200")
		post["requestBody"] = body(r)
		path["post"] = post
	}
	return path
}

func rowPath(r *odata.Resource) object {
	id := []any{object{"name": "id", "in": "path", "required": true, "description": "the id, or a natural key such as name='…'", "schema": text()}}
	path := object{"get": operation(r, "get", "One row, or none", append(id, options("select", "expand")...), rowsOf(r))}
	if may(r, func(ru odata.Rule) string { return ru.Update }) {
		patch := operation(r, "change", "Change what is given", id, nil)
		patch["requestBody"] = body(r)
		path["patch"] = patch
	}
	if may(r, func(ru odata.Rule) string { return ru.Delete }) {
		path["delete"] = operation(r, "delete", "Delete it", id, nil)
	}
	return path
}

// addRoute adds an endpoint beside the resources. What stands in braces in its path are parameters.
func addRoute(paths object, rt Route) {
	path := strings.TrimSuffix(rt.Path, "{$}")
	var parameters []any
	for part := range strings.SplitSeq(path, "{") {
		if name, _, ok := strings.Cut(part, "}"); ok {
			clean := strings.TrimSuffix(name, "...")
			path = strings.Replace(path, "{"+name+"}", "{"+clean+"}", 1)
			parameters = append(parameters, object{"name": clean, "in": "path", "required": true, "schema": text()})
		}
	}
	op := object{
		"operationId": strings.ToLower(rt.Method) + strings.NewReplacer("/", "_", "{", "", "}", "", ".", "").Replace(path),
		"summary":     rt.About, "tags": []string{"other"}, "responses": object{"200": object{"description": "done"}},
	}
	if len(parameters) > 0 {
		op["parameters"] = parameters
	}
	if rt.Public {
		op["security"] = []any{}
	}
	methods := []string{strings.ToLower(rt.Method)}
	if rt.Method == "" {
		methods = []string{"get", "post"}
	}
	entry, ok := paths[path].(object)
	if !ok {
		entry = object{}
		paths[path] = entry
	}
	for _, m := range methods {
		if slices.Contains([]string{"get", "post", "put", "patch", "delete", "head"}, m) {
			entry[m] = op
		}
	}
}
