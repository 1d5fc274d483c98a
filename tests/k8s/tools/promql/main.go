// What Prometheus itself makes of expressions and rules: its own parser, so that deploy/ has none that it would refuse.
//
// `promql FILE` checks a file of rules, with the templates in it. `promql` alone reads an expression a line, and prints for each
// a line of JSON: the metrics that it asks for, and the labels that it matches or groups by.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

type query struct {
	Metrics []string `json:"metrics"`
	Labels  []string `json:"labels"`
}

func main() {
	expressions := parser.NewParser(parser.Options{})
	if len(os.Args) > 1 {
		_, errs := rulefmt.ParseFile(os.Args[1], false, model.UTF8Validation, expressions, slog.Default())
		for _, err := range errs {
			fail(err)
		}
		return
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		expression, err := expressions.ParseExpr(lines.Text())
		if err != nil {
			fail(fmt.Errorf("%s: %w", lines.Text(), err))
		}
		line, err := json.Marshal(ask(expression))
		if err != nil {
			fail(err)
		}
		fmt.Println(string(line))
	}
}

func ask(expression parser.Expr) query {
	found := query{Metrics: []string{}, Labels: []string{}}
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			for _, matcher := range node.LabelMatchers {
				if matcher.Name == labels.MetricName {
					found.Metrics = append(found.Metrics, matcher.Value)
				} else {
					found.Labels = append(found.Labels, matcher.Name)
				}
			}
		case *parser.AggregateExpr:
			found.Labels = append(found.Labels, node.Grouping...)
		}
		return nil
	})
	return found
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
