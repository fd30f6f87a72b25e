import { run, scenarios, settings } from "./scenarios.ts"

const perSecond = Number(process.argv[2] ?? 100)
const columns = [
  "scenario",
  "answered",
  "p50",
  "p99",
  "sick calls",
  "calls/request",
  "first good",
  "full share",
  "at the end"
]

for (const [name, options] of Object.entries(settings)) {
  console.log(`\n${name}, ${perSecond} requests a second\n`)
  console.log(`| ${columns.join(" | ")} |`)
  console.log(`|${columns.map((_, index) => (index === 0 ? " --- |" : " ---: |")).join("")}`)
  for (const scenario of scenarios()) {
    const figures = run(scenario, { options, perSecond })
    const cells = [
      scenario.name,
      `${(100 * figures.success).toFixed(2)} %`,
      `${(figures.p50 / 1000).toFixed(2)} s`,
      `${(figures.p99 / 1000).toFixed(2)} s`,
      String(figures.sickCalls),
      figures.callsPerRequest.toFixed(3),
      `${figures.firstGood.toFixed(1)} s`,
      `${figures.fullShare.toFixed(1)} s`,
      `${(100 * figures.successAtEnd).toFixed(1)} %${figures.leftOver.length === 0 ? "" : `, but ${figures.leftOver.join(", ")}`}`
    ]
    console.log(`| ${cells.join(" | ")} |`)
  }
}
