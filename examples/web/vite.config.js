import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

// The pages request `/api` from their own origin, and Vite forwards that to Echoic at ECHOIC_URL. The
// browser sees one origin, as it would behind a reverse proxy, so no CORS is needed.
const proxy = { '/api': { target: process.env.ECHOIC_URL ?? 'http://127.0.0.1:8080' } }

export default defineConfig({
  plugins: [react()],
  server: { proxy }, // npm run dev
  preview: { proxy }, // npm run preview
  build: { rolldownOptions: { input: ['index.html', 'events.html'] } },
})
