// Writes alerts/ and dashboards/ from the modules that make them. A test holds that they are the same.
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Alerts, Dashboards } from "./src/index.ts"

for (const folder of ["alerts", "dashboards"]) mkdirSync(join(import.meta.dirname, folder), { recursive: true })
writeFileSync(join(import.meta.dirname, "alerts/llm-resilience.rules.yaml"), Alerts.toYaml(Alerts.rules()))
for (const [name, dashboard] of Object.entries(Dashboards)) {
  writeFileSync(join(import.meta.dirname, `dashboards/${name}.json`), `${JSON.stringify(dashboard, undefined, 2)}\n`)
}
