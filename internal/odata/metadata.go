package odata

import (
	"encoding/xml"
	"net/http"

	"github.com/roadstead-io/roadstead/internal/access"
)

// The metadata document, as far as clients use it: entity types with their keys, properties and navigations.
type (
	edmx struct {
		XMLName xml.Name  `xml:"edmx:Edmx"`
		NS      string    `xml:"xmlns:edmx,attr"`
		Version string    `xml:"Version,attr"`
		Schema  edmSchema `xml:"edmx:DataServices>Schema"`
	}
	edmSchema struct {
		NS        string      `xml:"xmlns,attr"`
		Namespace string      `xml:"Namespace,attr"`
		Types     []edmEntity `xml:"EntityType"`
		Sets      edmSets     `xml:"EntityContainer"`
	}
	edmEntity struct {
		Name        string        `xml:"Name,attr"`
		Key         edmRef        `xml:"Key>PropertyRef"`
		Properties  []edmProperty `xml:"Property"`
		Navigations []edmProperty `xml:"NavigationProperty"`
	}
	edmRef struct {
		Name string `xml:"Name,attr"`
	}
	edmProperty struct {
		Name     string `xml:"Name,attr"`
		Type     string `xml:"Type,attr"`
		Nullable bool   `xml:"Nullable,attr"`
	}
	edmSets struct {
		Name string   `xml:"Name,attr"`
		Sets []edmSet `xml:"EntitySet"`
	}
	edmSet struct {
		Name string `xml:"Name,attr"`
		Type string `xml:"EntityType,attr"`
	}
)

var edmTypes = map[Type]string{
	Integer: "Edm.Int32", BigInteger: "Edm.Int64", Real: "Edm.Double", Boolean: "Edm.Boolean", String: "Edm.String",
	Date: "Edm.DateTimeOffset", JSON: "Edm.Untyped", WebResource: "Edm.Untyped",
}

// metadata describes what the caller may read.
func (e *Engine) metadata(w http.ResponseWriter, r *http.Request, caller access.Caller, sch *schema) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return invalid("$metadata can only be read")
	}
	const ns = "Roadstead"
	doc := edmx{NS: "http://docs.oasis-open.org/odata/ns/edmx", Version: "4.0", Schema: edmSchema{
		NS: "http://docs.oasis-open.org/odata/ns/edm", Namespace: ns, Sets: edmSets{Name: "Container"},
	}}
	c := e.compiler(caller.Kind, nil)
	for _, res := range sch.resources {
		if _, err := sch.readable(caller.Kind, res.Name); err != nil {
			continue
		}
		entity := edmEntity{Name: res.Name, Key: edmRef{"id"}}
		for _, def := range res.Columns {
			col := res.columns[def.Name]
			switch {
			case !c.sees(scope{res: res}, col):
			case col.target == nil:
				entity.Properties = append(entity.Properties, edmProperty{col.Name, edmTypes[col.Type], col.Null})
			default:
				if _, err := sch.readable(caller.Kind, col.target.Name); err == nil {
					entity.Navigations = append(entity.Navigations, edmProperty{col.Name, ns + "." + col.target.Name, col.Null})
				}
			}
		}
		for _, name := range sortedKeys(res.toMany) {
			col := res.toMany[name]
			if _, err := sch.readable(caller.Kind, col.of.Name); err == nil && c.sees(scope{res: col.of}, col) {
				entity.Navigations = append(entity.Navigations, edmProperty{name, "Collection(" + ns + "." + col.of.Name + ")", true})
			}
		}
		doc.Schema.Types = append(doc.Schema.Types, entity)
		doc.Schema.Sets.Sets = append(doc.Schema.Sets.Sets, edmSet{res.Name, ns + "." + res.Name})
	}
	if len(doc.Schema.Types) == 0 {
		return errUnauthorized
	}
	data, err := xml.MarshalIndent(doc, "", " ")
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/xml; charset=utf-8")
	_, _ = w.Write(append([]byte(xml.Header), data...)) // a client that did not wait is its own business
	return nil
}
