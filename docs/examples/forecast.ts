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

const refuse = (why: string): never => {
  console.error(why)
  process.exit(2)
}

const options = {
  "per-second": { type: "string", default: "0.1" },
  days: { type: "string", default: "30" },
  seed: { type: "string", default: "1" },
  only: { type: "string", default: "" },
  svg: { type: "string" }
} as const

const read = () => {
  try {
    return parseArgs({ options }).values
  } catch (error) {
    const [why] = (error as Error).message.split(/\. |\n/)
    const known = Object.keys(options).map((name) => `--${name}`)
    return refuse(`forecast: ${why}; known are ${known.join(", ")}`)
  }
}
const values = read()

const number = (name: "per-second" | "days" | "seed"): number => {
  const value = Number(values[name])
  if (values[name].trim() !== "" && !Number.isNaN(value)) return value
  return refuse(`forecast: --${name} must be a number, got "${values[name]}"`)
}
const traffic = { perSecond: number("per-second"), days: number("days") }
const seed = number("seed")

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

const scenarios: { readonly [name: string]: Forecast.Scenario } = {
  "primary alone": { ...traffic, models: [primary] },
  "with a secondary": { ...traffic, models: [primary, secondary] },
  "and a local model": { ...traffic, models: [primary, secondary, local] },
  "timeout halved": { ...traffic, models: [primary, secondary], standard: { timeouts: { attempt: "15 seconds" } } },
  "with hedging": { ...traffic, models: [primary, secondary], chain: { hedge: { quantile: 0.95 } } }
}
const chosen = Object.fromEntries(Object.entries(scenarios).filter(([name]) => name.includes(values.only)))
if (Object.keys(chosen).length === 0) {
  refuse(`forecast: no scenario has "${values.only}" in its name; there are ${Object.keys(scenarios).join(", ")}`)
}

const compare = () => {
  try {
    return Forecast.compare(chosen, { seed })
  } catch (error) {
    if (error instanceof RangeError) return refuse(error.message)
    throw error
  }
}
const started = performance.now()
const outlooks = compare()
console.log(Forecast.toTable(outlooks))
const requests = outlooks.reduce((sum, outlook) => sum + outlook.requests, 0)
console.log(`\n${requests} requests in ${((performance.now() - started) / 1000).toFixed(1)} s`)
if (values.svg !== undefined) writeFileSync(values.svg, Forecast.toSvg(outlooks))
