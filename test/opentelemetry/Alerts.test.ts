import { existsSync, readFileSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Core from "@llm-resilience/core"
import { Attempt, DecisionLog, ProviderError } from "@llm-resilience/core"
import { Alerts, Dashboards, Prometheus } from "@llm-resilience/opentelemetry"
import { parser } from "@prometheus-io/lezer-promql"
import { Yaml } from "effect/encoding"

const root = join(import.meta.dirname, "../..")
const shipped = (path: string) => readFileSync(join(root, "packages/opentelemetry", path), "utf8")
const alerts = Alerts.rules().flatMap(({ rules }) => rules)

/** The metrics that a query names, and whether it can be read, according to the grammar of Prometheus' own editor. */
const readQuery = (expr: string) => {
  const query = expr.replaceAll("$__rate_interval", "1m").replaceAll("$__range", "1h")
  const metrics: Array<string> = []
  const mistakes: Array<string> = []
  parser.parse(query).iterate({
    enter: (node) => {
      if (node.type.isError) mistakes.push(query.slice(Math.max(0, node.from - 10), node.to + 10))
      if (node.name === "VectorSelector")
        metrics.push(/^[a-zA-Z_:][\w:]*/.exec(query.slice(node.from, node.to))?.[0] ?? "")
    }
  })
  return { metrics, mistakes }
}

describe("Alerts", () => {
  it("are shipped as they are generated", () => {
    assert.strictEqual(shipped("alerts/llm-resilience.rules.yaml"), Alerts.toYaml(Alerts.rules()))
    assert.deepStrictEqual(
      Yaml.parse(Alerts.toYaml(Alerts.rules())),
      JSON.parse(JSON.stringify({ groups: Alerts.rules() }))
    )
  })

  it("have a runbook each, which names them, and there is no other", () => {
    const files = alerts.map(({ alert }) => Alerts.fileOf(alert))

    for (const { alert, annotations } of alerts) {
      const file = join(root, "docs/runbooks", Alerts.fileOf(alert))
      assert.isTrue(existsSync(file), file)
      assert.include(readFileSync(file, "utf8"), alert)
      assert.isTrue(annotations.runbook_url.endsWith(`/docs/runbooks/${Alerts.fileOf(alert)}`))
    }
    assert.deepStrictEqual(readdirSync(join(root, "docs/runbooks")).toSorted(), ["README.md", ...files].toSorted())
  })

  it("ask for what exists, in the language of Prometheus", () => {
    for (const { alert, expr } of alerts) {
      const { metrics, mistakes } = readQuery(expr)
      assert.deepStrictEqual(mistakes, [], alert)
      assert.isNotEmpty(metrics)
      for (const metric of metrics) assert.isTrue(Prometheus.names.has(metric), `${alert}: ${metric}`)
    }
  })

  it("can be made stricter, alert by alert", () => {
    const strict = Alerts.rules({
      window: "1m",
      for: { LlmCircuitOpen: "10s" },
      fallbackShare: 0.01,
      latency: { target: 2.56, objective: 0.99, rate: 14.4 },
      untestedFor: "7d"
    }).flatMap(({ rules }) => rules)
    const of = (name: Alerts.Alert) => strict.find(({ alert }) => alert === name)

    assert.strictEqual(of("LlmCircuitOpen")?.for, "10s")
    assert.match(of("LlmFallbackActive")?.expr ?? "", /\[1m\].*> 0\.01$/s)
    assert.match(of("LlmLatencyBudgetBurn")?.expr ?? "", /le="2\.56".*> 0\.144\n/s)
    assert.match(of("LlmBackupUntested")?.expr ?? "", /\[7d\]/)
  })

  it("refuse a latency that no histogram knows, and an objective that is none", () => {
    assert.throws(() => Alerts.rules({ latency: { target: 3 } }), RangeError)
    assert.throws(() => Alerts.rules({ latency: { objective: 1 } }), RangeError)
  })
})

describe("Runbooks", () => {
  const folder = join(root, "docs/runbooks")
  const runbooks = readdirSync(folder).map((file) => [file, readFileSync(join(folder, file), "utf8")] as const)
  const found = (text: string, pattern: RegExp) => Array.from(text.matchAll(pattern), ([, word]) => word ?? "")

  it("send people to panels that exist", () => {
    const panels = new Set(Object.values(Dashboards).flatMap(({ panels }) => panels.map(({ title }) => title)))
    const named = runbooks.flatMap(([, text]) => found(text, /(?<![\w`])_([A-Z][^_`]+)_(?!\w)/g))

    assert.isAbove(named.length, 15)
    assert.deepStrictEqual(
      named.filter((title) => !panels.has(title.replaceAll(/\s+/g, " "))),
      []
    )
  })

  it("give queries that can be copied", () => {
    const queries = runbooks.flatMap(([, text]) => found(text, /`([^`]*llm_resilience_[^`]*)`/g))

    assert.isAbove(queries.length, 4)
    for (const query of queries) {
      const { metrics, mistakes } = readQuery(query)
      assert.deepStrictEqual(mistakes, [], query)
      for (const metric of metrics) assert.isTrue(Prometheus.names.has(metric), metric)
    }
  })

  it("speak of events, errors, reasons and notices by their names", () => {
    const known = new Set<string>([
      ...Object.keys(DecisionLog.levels),
      ...Object.keys(Core),
      ...ProviderError.Reason.literals,
      "Timeout",
      "RateLimited",
      ...Attempt.SkipReason.members.map(({ fields }) => fields._tag.schema.literal),
      "BackupService",
      "Cached",
      "Queued",
      "Unavailable",
      "Expired"
    ])
    const named = runbooks.flatMap(([, text]) => found(text, /`([A-Z][a-z]+(?:[A-Z][a-z]+)*)`/g))

    assert.isAbove(named.length, 30)
    assert.deepStrictEqual(
      named.filter((name) => !known.has(name)),
      []
    )
  })
})

describe("Dashboards", () => {
  const all = Object.entries(Dashboards) as ReadonlyArray<readonly [string, Dashboards.Dashboard]>

  it("are shipped as they are generated", () => {
    assert.deepStrictEqual(all.map(([name]) => name).toSorted(), ["cost", "overview", "provider"])
    for (const [name, dashboard] of all) {
      assert.deepStrictEqual(JSON.parse(shipped(`dashboards/${name}.json`)), JSON.parse(JSON.stringify(dashboard)))
    }
  })

  it("ask for what exists, in the language of Prometheus", () => {
    const used = new Set<string>()
    for (const [name, { panels }] of all) {
      for (const { targets, title } of panels) {
        for (const { expr } of targets) {
          const { metrics, mistakes } = readQuery(expr)
          assert.deepStrictEqual(mistakes, [], `${name}: ${title}`)
          assert.isNotEmpty(metrics)
          for (const metric of metrics) {
            assert.isTrue(Prometheus.names.has(metric), `${name}: ${title}: ${metric}`)
            used.add(metric)
          }
        }
      }
    }
    assert.isAbove(used.size, 25)
  })

  it("have a title and a word about it on each panel, and a number of their own", () => {
    for (const [, { panels, uid }] of all) {
      assert.match(uid, /^[a-z-]{1,40}$/)
      assert.strictEqual(new Set(panels.map(({ title }) => title)).size, panels.length)
      assert.isTrue(panels.every(({ description }) => description.length > 5))
    }
  })

  it("would be caught with a query that is none", () => {
    assert.isNotEmpty(readQuery("sum(rate(a_total[5m])").mistakes)
    assert.deepStrictEqual(readQuery("sum by (x) (rate(nobody_counts_this[1m]))").metrics, ["nobody_counts_this"])
  })
})
