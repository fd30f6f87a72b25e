/**
 * What will users see next month, and what would change it?
 *
 *   npm run forecast                          30 days at a request every ten seconds, five scenarios
 *   npm run forecast -- --per-second 1        the same at one request a second: 2.6 million requests each
 *   npm run forecast -- --svg forecast.svg    draws it as well
 */
import { writeFileSync } from "node:fs"
import { parseArgs } from "node:util"
import { Forecast } from "@llm-resilience/testing"

const { values } = parseArgs({
  options: {
    "per-second": { type: "string", default: "0.1" },
    days: { type: "string", default: "30" },
    seed: { type: "string", default: "1" },
    only: { type: "string" },
    svg: { type: "string" }
  }
})

const primary: Forecast.Model = {
  id: "primary",
  latency: { median: "2 seconds", p99: "12 seconds" },
  errors: { Overloaded: 0.004, ServerError: 0.002, RateLimited: 0.004 },
  outages: { perMonth: 4, median: "25 minutes", p99: "4 hours" },
  usdPerCall: 0.01
}
const secondary: Forecast.Model = {
  id: "secondary",
  latency: { median: "3 seconds", p99: "15 seconds" },
  errors: { Overloaded: 0.01, RateLimited: 0.005 },
  outages: { perMonth: 3, median: "40 minutes", p99: "6 hours", as: "Hang" },
  usdPerCall: 0.006
}
const local: Forecast.Model = {
  id: "local",
  latency: { median: "6 seconds", p99: "20 seconds" },
  outages: { perMonth: 1, median: "10 minutes" },
  usdPerCall: 0.001
}

const traffic = { perSecond: Number(values["per-second"]), days: Number(values.days) }
const scenarios: { readonly [name: string]: Forecast.Scenario } = {
  "primary alone": { ...traffic, models: [primary] },
  "with a secondary": { ...traffic, models: [primary, secondary] },
  "and a local model": { ...traffic, models: [primary, secondary, local] },
  "timeout halved": { ...traffic, models: [primary, secondary], standard: { timeouts: { attempt: "15 seconds" } } },
  "with hedging": { ...traffic, models: [primary, secondary], chain: { hedge: { quantile: 0.95 } } }
}
const chosen = Object.fromEntries(Object.entries(scenarios).filter(([name]) => name.includes(values.only ?? "")))

const started = performance.now()
const outlooks = Forecast.compare(chosen, { seed: Number(values.seed) })
console.log(Forecast.toTable(outlooks))
const requests = outlooks.reduce((sum, outlook) => sum + outlook.requests, 0)
console.log(`\n${requests} requests in ${((performance.now() - started) / 1000).toFixed(1)} s`)
if (values.svg !== undefined) writeFileSync(values.svg, Forecast.toSvg(outlooks))
