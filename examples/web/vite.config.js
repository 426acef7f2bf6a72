import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

// The pages ask their own origin for `/api`, and Vite hands that on to Echoic, where ECHOIC_URL says.
// So the browser sees one site, as it would behind your reverse proxy, and nothing needs CORS.
const proxy = { '/api': { target: process.env.ECHOIC_URL ?? 'http://127.0.0.1:8080' } }

export default defineConfig({
  plugins: [react()],
  server: { proxy }, // npm run dev
  preview: { proxy }, // npm run preview
  build: { rolldownOptions: { input: ['index.html', 'events.html'] } },
})
